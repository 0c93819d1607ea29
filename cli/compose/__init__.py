"""Stack files: from YAML to the specs of Docker's API. Pure but for ``load``, which reads the files.

``document`` text to values that know their line, ``interpolation`` variables, ``shapes`` and ``schema`` what may
stand where and what it means, ``merge`` several files, ``references`` names that must exist, ``support`` what this
version does not do, ``convert`` the result as specs.
"""
