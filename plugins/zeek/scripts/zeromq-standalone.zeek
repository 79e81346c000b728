##! For a Zeek that is a single process: its ZeroMQ backend, and the proxy that others connect to.
##!
##! A cluster under zeekctl needs nothing of this. The proxy listens on tcp://127.0.0.1:5555 for subscribers and on
##! tcp://127.0.0.1:5556 for publishers, and without CURVE keys whoever reaches it can publish any event.

@load base/misc/version
@load frameworks/cluster/backend/zeromq
# Up to 8.0 a script of its own connects. From 8.1 on the one above does, and the other is deprecated. (Builds of 8.1.0-dev
# of 2025 count as 8.1.0 and connect by neither: there, load it in local.zeek.)
@if ( ! Version::at_least("8.1.0") )
@load frameworks/cluster/backend/zeromq/connect
@endif

redef Cluster::Backend::ZeroMQ::run_proxy_thread = T;
