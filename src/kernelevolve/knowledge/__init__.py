"""What is known before a run: articles with front matter, found in two steps and quoted with their file.

`article` reads one file, `library` holds them all, `words` finds words in them, `retrieve` chooses what a brief should
quote, `faults` says what is wrong with a library. The articles lie in `articles/`; users add folders of their own.
"""
