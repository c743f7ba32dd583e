"""What people see in a terminal: the monitor, tables, sentences about states, and the one way to print them."""
