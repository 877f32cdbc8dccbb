"""The tree of all exceptions that asyncmgr raises on purpose.

::

    AsyncmgrError
    ├── InvalidPeriodicTaskArg (TypeError)   a declaration that makes no sense
    ├── InvalidHook (TypeError)              a hook or callback of the wrong kind
    ├── InvalidRpcMethod (TypeError)         a method that other hosts cannot call
    ├── InvalidListener (TypeError)          a listener that cannot be called with an event
    ├── InvalidProgress (TypeError)          a run tells of progress that makes no sense
    ├── InvalidCapabilities (ValueError)     capabilities that are not JSON values
    ├── InvalidSettings (ValueError)         a key, a value or a file of the settings
    ├── InvalidName (ValueError)             a name that fits no subject or key
    ├── InvalidRequest (ValueError)          a request to a running service that makes no sense
    ├── NotAllowed                           a verb that the caller may not use
    ├── ControlUnavailable                   there is no control socket, or none that answers
    ├── HttpUnavailable                      health, metrics and page cannot be served at an address
    ├── MissingExtra                         a library that a part of asyncmgr needs is not installed
    ├── InvalidTarget (ValueError)           a ``module:attribute`` that names nothing usable
    ├── ManagerInUse                         a second driver for one manager
    ├── InvalidKeys                          a manager gave keys for a task that are none
    ├── UnknownKey (LookupError)             a task has no such key
    ├── NotOwner                             only one process may run the task, and it is another one
    ├── LockUnavailable                      the files by which processes of a machine agree cannot be used
    ├── LostLease                            the block of a lease was cancelled, since another process may hold it
    ├── TaskRemoved                          a handle of a task that was removed
    ├── AlreadyRunning                       a run is in progress, and the task allows no other
    ├── WrongThread                          a call from another thread than the service's
    ├── ManagerNotInitialised                ``super().__init__()`` was forgotten
    ├── TaskFailed                           a run raised CancelledError, but nobody cancelled it
    ├── ServiceStateError                    a call that the service's state does not allow
    │   └── ServiceStopped                   the service was stopped while it started
    ├── TransportError                       messages or keys cannot be carried
    │   ├── TransportClosed                  the transport was closed
    │   ├── MessageTooLarge                  more than 1 MiB
    │   └── RevisionConflict                 a key changed since it was read
    └── RpcError                             a call of another service failed
        ├── NoResponders                     no host serves this
        ├── NoSuchMethod                     the service has no such method
        ├── UnsupportedVersion               the service has no such version
        ├── InvalidArguments                 the arguments do not fit the method
        ├── RemoteError                      the method raised
        ├── ServiceBusy                      too many calls wait on the host
        └── RpcTimeout (TimeoutError)        no answer before the deadline

`Skip` is not an error: a run raises it to say that there was nothing to do.
"""

from __future__ import annotations


class AsyncmgrError(Exception):
    """Base of all exceptions that asyncmgr raises on purpose."""


class InvalidPeriodicTaskArg(AsyncmgrError, TypeError):
    """A periodic task is declared with arguments that make no sense."""


class InvalidHook(AsyncmgrError, TypeError):
    """A hook or callback is of the wrong kind: plain where it is awaited, or `async def` where it is called."""


class InvalidRpcMethod(AsyncmgrError, TypeError):
    """A method with `@rpc` cannot be offered to other hosts."""


class InvalidListener(AsyncmgrError, TypeError):
    """A listener cannot be called with an event, or is async, so that its body would never run."""


class InvalidProgress(AsyncmgrError, TypeError):
    """A run called ``context.progress`` with what is no progress."""


class InvalidCapabilities(AsyncmgrError, ValueError):
    """Capabilities hold a value that is not JSON; the text gives its path."""


class InvalidSettings(AsyncmgrError, ValueError):
    """A setting is unknown or wrong; the text gives the place, the key and what is accepted."""


class InvalidName(AsyncmgrError, ValueError):
    """A name, subject or key cannot be written on the wire, or is too long for it."""


class InvalidRequest(AsyncmgrError, ValueError):
    """A request to a running service names an unknown verb or task, or has a wrong argument."""


class NotAllowed(AsyncmgrError):
    """A caller may not use the verbs of a service."""


class ControlUnavailable(AsyncmgrError):
    """A service cannot open its control socket, or nobody answers at one; the text says why."""


class HttpUnavailable(AsyncmgrError):
    """Health, metrics and page cannot be served at the address that was given, or nobody answers there."""


class MissingExtra(AsyncmgrError):
    """A library that a part of asyncmgr needs is not installed; the text names the extra."""


class InvalidTarget(AsyncmgrError, ValueError):
    """A target or import string names nothing, or nothing that can be used."""


class ManagerInUse(AsyncmgrError):
    """A pass or a service already drives this manager; it can have only one driver at a time."""


class InvalidKeys(AsyncmgrError):
    """A manager gave keys for a task with `each=` that are none; the text names the first wrong one."""


class UnknownKey(AsyncmgrError, LookupError):
    """A task with `each=` has no such key at the moment."""


class NotOwner(AsyncmgrError):
    """Another process holds the task, which only one process may run; the text names that process."""


class LostLease(AsyncmgrError):
    """The block of a lease was cancelled: the lease was lost, and another process may hold it."""


class LockUnavailable(AsyncmgrError):
    """The processes of this machine cannot agree who runs what: a file or directory of their locks cannot be used."""


class TaskRemoved(AsyncmgrError):
    """The task of this handle was removed."""


class AlreadyRunning(AsyncmgrError):
    """A task was triggered while a run of it is in progress, and its `overlap` allows no other."""


class WrongThread(AsyncmgrError):
    """A method that belongs to a service's event loop was called from another thread."""


class Skip(Exception):
    """Raised by a run with nothing to do: ``raise Skip("no new items")``. Its outcome is `nothing`, no failure."""


class ManagerNotInitialised(AsyncmgrError):
    """A manager's ``__init__`` did not call ``super().__init__()``."""


class TaskFailed(AsyncmgrError):
    """A run ended with a ``CancelledError`` (the ``__cause__``), although nobody had cancelled it."""


class ServiceStateError(AsyncmgrError):
    """The service is not in a state that allows this call."""


class ServiceStopped(ServiceStateError):
    """The service was stopped before it had started."""


class TransportError(AsyncmgrError):
    """A transport cannot carry messages or keep keys at the moment."""


class TransportClosed(TransportError):
    """The transport was closed; open a new one."""


class MessageTooLarge(TransportError):
    """A message or value is larger than the limit (1 MiB)."""


class RevisionConflict(TransportError):
    """A key does not have the revision that the writer expected."""


class RpcError(AsyncmgrError):
    """A call of another service failed. Raised as this very class if the host could not read the request."""


class NoResponders(RpcError):
    """No service listens on the subject of a request."""


class NoSuchMethod(RpcError):
    """The service has this version of the interface, but no such method in it."""


class UnsupportedVersion(RpcError):
    """The service does not offer the method in this version, or the version is malformed."""

    def __init__(self, text: str, offered: tuple[str, ...] = ()) -> None:
        super().__init__(text, offered)
        self.offered: tuple[str, ...] = offered
        """The versions of the interface that the service has, in the order in which it tries them."""

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidArguments(RpcError):
    """The arguments of a call do not fit the method; its body did not run."""


class RemoteError(RpcError):
    """The method raised on the other host, or ended without a result; that host's log has the details."""

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type: str = type_name
        """The class name of the exception that was raised."""
        self.text: str = text

    def __str__(self) -> str:
        return f"{self.type}: {self.text}" if self.text else self.type


class ServiceBusy(RpcError):
    """The service is at its limit of calls, and its queue of waiting calls is full; the body did not run."""


class RpcTimeout(RpcError, TimeoutError):
    """No answer came before the deadline. It is not known whether the body ran."""
