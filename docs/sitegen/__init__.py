"""Makes the documentation site: ``python -m sitegen DIRECTORY`` (in ``nox -s docs``).

Read in this order. `docstrings` reads what the code says of itself and writes it as Markdown. `names`, `settings`,
`events`, `metrics` and `commands` each write pages of the reference from the code; `pages` collects them. `tree` copies
the pages of ``docs/`` beside them, with tables of contents from the lists of the ``index.md`` files. `twins` adds
``llms.txt`` and a Markdown twin of each page to what Sphinx has built, and `check` looks for broken links and for
requests to other sites. `build` does all of it.
"""
