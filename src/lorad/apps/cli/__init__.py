"""The ``lorad`` command. What needs models is a program of its own (``model_commands``), so that ``lorad status`` is instant."""
