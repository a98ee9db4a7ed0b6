"""The command line, ``tunnel.cli`` once installed: options, output for people and programs, exit codes.

``main`` finds a command by its name, imports it only then, and turns errors into a message and an exit code.
Each command has a module of its name: ``serve``, ``check``, ``status``, ``migrate``, ``uri``, ``certs``,
``demo``. Behind ``migrate`` stand ``order`` (its options), ``readiness`` (checks), ``migration`` (the run),
``announcer`` (output) and ``tunnelwatch`` (the daemon's view); behind ``demo`` ``rehearsal`` (the run),
``stage`` (two daemons) and ``display``; behind ``uri`` ``recipes``. ``options`` reads values.

Protocol, policy and calls to hypervisors belong below. No module here may load for one command what only
another needs: the daemon must stay small.
"""
