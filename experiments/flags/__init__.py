"""The flags that several programs share, in groups, and what surrounds the main function of a program."""
