"""Reports: from result files to findings, charts and verdicts.

``result_file`` reads them, ``summary`` and ``summary_migrate`` draw conclusions, ``budget`` holds the goals
of mtunnel. A ``report_`` module for each benchmark turns its records into blocks of a ``document``;
``contents`` puts them together, after the ``answer``, and ``terminal``, ``html_page`` and ``markdown`` render
them. ``readme`` writes the figures of README.md.

Nothing here starts a program or measures.
"""
