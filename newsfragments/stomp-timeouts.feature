STOMP listeners have `login_timeout`, `send_timeout`, `heart_beat_min`, `heart_beat_max` and `heart_beat_grace`.
