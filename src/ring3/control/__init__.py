"""Machines on this host: each a process and a directory of its own; no daemon.

    home.py       directories of machines: their files, names, and who runs
    lock.py       the lock that a running machine holds, and that its end lets go of, however it ends
    protocol.py   JSON-RPC 2.0 from bytes to requests and back, without I/O
    methods.py    what a client can ask a machine for
    server.py     the control socket of a running machine
    client.py     the other end
    remote.py     RemoteMachine: a machine of another process, with the face of ring3.Machine
    host.py       a machine in its directory, in this process
    spawn.py      … in a background process
"""
