"""The words of the program as data: what is stored, and what rooms hand to each other."""
