"""For the `imports` of a bundle's configuration: `"$import monai_amat.bundle_run"`.

Importing this module changes the process: a run that ends early prints the cause, or how to go on, as its last line,
see `monai_amat.ending.install`. Nothing else imports it.
"""

from monai_amat.ending import install

install()
