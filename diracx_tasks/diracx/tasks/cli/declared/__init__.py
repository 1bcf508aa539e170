"""How are the commands typed? Their names, arguments, options and help pages.

What a command does stands in the module of `commands` that `runs` names. It is imported when the command runs, so that
a help page and the completion of an option do without NATS, the registry of tasks and the rest.
"""
