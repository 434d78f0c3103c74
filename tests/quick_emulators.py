"""Emulators are made in a tenth of the time, and play the same games.

Nine tenths of it go into a table of blended colours for flickering pictures, which every one of
ALE's emulators makes and EnvPool, which takes the maximum of two frames itself, never reads. The
suite makes thousands of emulators, most of which play for a few steps. So in the tests' own
processes the function that fills the table returns at once; programs that they start are as users
have them, or begun through `quick_program`. Where that cannot be done, emulators are slow to make
and nothing else.
"""

from __future__ import annotations

import ctypes
import mmap
import platform

_FILLS_THE_TABLE = "_ZN3ale13PhosphorBlend18makeAveragePaletteEv"
_RETURN = b"\xc3"  # of x86-64


def install() -> None:
    """Of the emulators that this process makes from now on."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return
    import envpool.atari.atari_envpool

    library = ctypes.CDLL(envpool.atari.atari_envpool.__file__)
    if not hasattr(library, _FILLS_THE_TABLE):
        return
    place = ctypes.cast(getattr(library, _FILLS_THE_TABLE), ctypes.c_void_p).value
    page = ctypes.c_void_p(place & ~(mmap.PAGESIZE - 1))
    protect, size = ctypes.CDLL(None).mprotect, ctypes.c_size_t(mmap.PAGESIZE)
    if protect(page, size, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return
    ctypes.memmove(place, _RETURN, len(_RETURN))
    protect(page, size, mmap.PROT_READ | mmap.PROT_EXEC)
