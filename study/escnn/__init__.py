"""The layers on escnn, behind the constructors of :mod:`study.gconv`. escnn is imported when it is asked for."""
