"""The command line, ``tunnel.cli`` once installed: options, output for people and programs, exit codes.

``main`` finds a command by its name, imports it only then, and turns errors into a message and an exit code.
Each command has a module of its name: ``serve``, ``check``, ``status``, ``uri``, ``certs``; ``migrate`` and
``demo`` are packages. Behind ``uri`` stands ``snippets``. ``options`` reads values.

Protocol, policy and calls to hypervisors belong below. No module here may load for one command what only
another needs: the daemon must stay small.
"""
