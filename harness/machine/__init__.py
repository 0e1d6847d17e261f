"""The machine room: what this computer is, what state it is in, who runs where."""
