With ``audit = "FILE"`` the broker keeps an audit log in JSON: logins, refusals, what administrators do, reloads.
