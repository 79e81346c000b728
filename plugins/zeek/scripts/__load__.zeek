##! netseq for Zeek: connections to the sensor, its alerts as notices.
##!
##! Loaded by ``@load packages`` or ``@load netseq``. It uses the cluster backend that Zeek runs with; a single Zeek process
##! without one loads ``netseq/zeromq-standalone`` too.

@load ./notices
@load ./conns
@load ./alerts
