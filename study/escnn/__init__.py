"""The layers on escnn, behind the constructors of :mod:`study.gconv`. escnn is imported only when it is used."""
