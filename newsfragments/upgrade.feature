``broker upgrade``, SIGUSR2 and ``POST /upgrade`` have a new process of the installed code take over without refusing a client;
if it cannot serve, the old one goes on and says why.
