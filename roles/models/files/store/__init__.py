# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/__init__.py.
"""
Have model files on this host: complete, verified, root's and read-only.

Run on the host as root by the role's one fact and one operation; SPEC is a file in JSON, and these are arguments of
the ``main`` of a module:

    known     SPEC                 what is not as wanted, as one line of JSON; reads only, hashes nothing
    commands  SPEC environment HUB RANK plan|fetch
                                   have the virtual environment of a hub's client, if that command takes it
    commands  SPEC steps           the steps of `plan`, a line for each: Python, HUB, RANK
    commands  SPEC plan HUB RANK   read the hub's listing of what is wanted, once, and write it down; and
                                   what a file says of its model's memory, where that is wanted
    commands  SPEC space           compare what is to come with what is free, before the first byte
    commands  SPEC order           see which places send fast enough; the steps of `fetch`
    commands  SPEC fetch HUB RANK  download, verify, place
    lan       SPEC prefetch        have what other hosts of the LAN have of that, verified, in its place
    lan       SPEC publish         have torrents of what is there, for the others
    lan       SPEC seed            become aria2, which gives it to them; the command of model-swarm.service

HUB is ``huggingface`` or ``modelscope``, run by the Python of that client's environment, or ``plain`` (URLs and
paths) or ``bundle``, run by the host's own; RANK is a place's among those of a model, from 0.

A model's manifest in STATE holds what was asked, the revision that this meant, and for each file size and digest, and
once it stands in its place what stat said of it. So a later run compares stat alone, and a killed one goes on. A
partial file is named after the digest that it shall have: it can only be continued with the same content, whatever the
hub calls it by then. What hosts of the LAN send lies beside that in a directory of its own, as its parts come in any
order.

Python 3.10 and its standard library; a hub's client is imported only by its own steps. Exit status 1 and lines on
standard error when something could not be done; what can be done for other models is done before.
"""
