"""DiracX tasks on NATS JetStream."""

from pkgutil import extend_path

# Other distributions may bring packages below this one, such as `diracx.tasks.jobs`. They stand in another folder where
# this one is installed as editable.
__path__ = extend_path(__path__, __name__)
