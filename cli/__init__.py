"""The command line, ``tunnel.cli`` once installed: options, text and JSON output, exit codes.

``main`` dispatches subcommands, imports them lazily, and turns errors into a message and an exit code. Each
subcommand has a module of its name (``serve``, ``check``, ``status``, ``uri``, ``certs``); ``migrate`` and
``demo`` are packages. ``snippets`` generates the output of ``uri``; ``options`` parses shared options.

Protocol, policy and calls to hypervisors belong in lower packages. No module may import for one subcommand
what only another needs: the daemon must stay small.
"""
