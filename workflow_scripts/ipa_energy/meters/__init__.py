"""Energy meters: NVML, RAPL and, where nothing measures, an estimate, behind the interface of :mod:`.base`."""
