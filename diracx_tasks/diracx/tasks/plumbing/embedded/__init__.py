"""Where does a nats-server come from if none is reachable? An embedded one runs here, and ends with its parent."""
