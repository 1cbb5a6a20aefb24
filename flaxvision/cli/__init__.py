"""The command line, `flaxvision COMMAND`: a module for each command, and one for what they share."""
