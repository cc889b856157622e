"""Power logs of meters that the workflow does not read itself, cut to the windows of its records afterwards.

A log is any CSV of time and power: a wall meter, an export from a BMC (IPMI, Redfish), NVIDIA FrameView with PCAT,
PowerSensor3. Settings (:mod:`.settings`) go in with files (:mod:`.formats`) and records. The clock of the log is set
against that of the host by the steps of the load (:mod:`.align`); the energy of each window is integrated
(:mod:`.series`, :mod:`.cut`) and becomes a row of ``external.csv``, which :mod:`.join` puts beside or in place of the
energies of the records. Records are never changed.
"""
