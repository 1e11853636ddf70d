"""The program that measures artifacts on a device. It needs Python 3.9 or newer and NumPy, and nothing else of ours.

``python <this folder>`` runs it, also from a copy of these files on another machine (``remote.START``). It reads
requests from standard input and answers each with one line of JSON on standard output, so that the same program serves
a process on this machine, a channel of ssh and a worker of a fleet. A request is one line of JSON; where it says
``"bytes": n``, n bytes follow.

``{"do": "put", "name": N, "bytes": n}``: keep an artifact, a tar archive of its folder's files, under a plain name.
``{"do": "drop", "name": N}``: forget it.
``{"do": "measure", "lanes": [N or an absolute path, ...], ...}``: check and time artifacts side by side
(``race.Request``). The first is the one that the others are compared with.

The first line of output, before any request, says what this machine is. The end of the input ends everything; unless a
request says ``"watch": false``, also the measurement that runs.

Each artifact is loaded by its own loader in a process of its own, forked from this one: a crash costs that artifact
alone. Its output is checked first, with every buffer between pages that may not be touched; then all artifacts take
turns, so that what slows the machine slows each of them.
"""
