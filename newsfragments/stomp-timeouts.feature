STOMP listeners have `login_timeout`, `send_timeout`, `heart_beat_min` and `heart_beat_grace`.
