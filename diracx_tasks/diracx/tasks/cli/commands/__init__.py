"""Which commands are there? One file each; a group of commands is a folder."""
