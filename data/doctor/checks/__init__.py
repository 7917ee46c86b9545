"""The checks of `findings.CHECKS`, which importing this package registers: one theme per file."""

from data.doctor.checks import duplicates, files, kinds, maps, pairs, values

__all__ = ["duplicates", "files", "kinds", "maps", "pairs", "values"]
