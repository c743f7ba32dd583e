"""``python -m lorad.apps.cli.model_commands``."""

from lorad.apps.cli.model_commands.main import main

if __name__ == "__main__":
    main()
