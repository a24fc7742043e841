HTTP requests cost the broker far less processor time: those that come in one piece are read at once, and answers go out in one write.
