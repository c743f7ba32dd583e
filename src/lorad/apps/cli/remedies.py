"""What to do about an error where only the command line knows it."""

from lorad.errors import ConfigError, LoradError


def remedy(error: LoradError) -> str:
    """Return what to say behind an error's sentence; an empty string where it says all."""
    if error.code != "no_such_track":
        return ""
    if error.message.startswith(
        "there is no track 'chat'"
    ):  # taken by the command itself, where none was named
        return "; name another one with: --track NAME"
    # what the daemon says is a ProtocolError: it knows its own settings
    is_of_settings = isinstance(error, ConfigError)
    return "; if the daemon was started with --config or --set, give it here too" if is_of_settings else ""
