"""Why a training was not started."""


class NotStarted(RuntimeError):
    """A training cannot start or go on; the message is one line for the user.

    Every process of a job raises it, so that none waits for the others.

    Attributes:
        code: exit code of a program that ends with it.
    """

    code = 1


class WrongInput(NotStarted):
    """What the user gave is wrong: config, annotations, checkpoint."""

    code = 2
