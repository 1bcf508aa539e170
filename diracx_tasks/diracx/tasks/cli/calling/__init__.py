"""What `call` needs: the task runs here, in this process."""
