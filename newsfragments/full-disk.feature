On a full disk what is there can still be taken and settled: 16 MB are kept for that beside the data file. One message
that nobody settles no longer keeps everything after it in the file, and messages that the disk has damaged no longer stop
their queue.
