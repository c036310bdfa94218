"""An engine in a process of its own, so that neither its forwards nor the server's calls wait for each other's interpreter."""
