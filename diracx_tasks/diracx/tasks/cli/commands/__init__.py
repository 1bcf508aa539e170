"""The commands, a file each; a group of commands is a folder."""
