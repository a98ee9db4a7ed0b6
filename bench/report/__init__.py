"""Reports: from result files to tables, charts and verdicts.

``result_file`` reads them, ``summary`` and ``summary_migrate`` draw conclusions, ``budget`` holds the goals
of mtunnel; ``contents`` with its parts makes a ``document``, which ``html_page`` and ``markdown`` render;
``readme`` writes the figures of README.md.

Nothing here starts a program or measures.
"""
