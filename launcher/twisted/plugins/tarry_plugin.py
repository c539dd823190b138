"""Makes `twistd -n tarry` known to twistd, which finds its commands by this folder's name."""

from twisted.application.service import ServiceMaker

tarry = ServiceMaker(
    "tarry",
    "tarry.service",
    "Serve .rpy scripts whose responses take their time.",
    "tarry",
)
