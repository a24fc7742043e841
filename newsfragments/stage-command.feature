``broker stage`` makes any executable a stage of a flow: one process for each message, a program that speaks JSON in lines or frames,
or a server.
