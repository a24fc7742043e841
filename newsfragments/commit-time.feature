Three numbers more, everywhere: how many commits there were and how long they took, the room that is left on the disk, and
logins that failed.
