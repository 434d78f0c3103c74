"""Text for people, without anything that takes long to import."""


def shown(text: object) -> str:
    r"""As text in which whatever is not printable is written out, an escape character as "\x1b".

    Names come out of files, and terminals obey such characters: they could hide what follows, or
    pretend to be the program.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
