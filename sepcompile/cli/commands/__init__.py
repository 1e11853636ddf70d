"""One module per command, named like it, each with a click command named ``command``.

Adding a command is adding such a file. What a command needs is imported when it runs, so that ``--help`` is quick.
"""
