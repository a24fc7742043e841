A listener may believe proxies that say by the PROXY protocol, version 1 or 2, who their client is: ``proxy = ["10.0.0.0/8"]``.
