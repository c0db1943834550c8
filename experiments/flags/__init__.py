"""The flags that several programs share, in groups, and the function that runs a program."""
