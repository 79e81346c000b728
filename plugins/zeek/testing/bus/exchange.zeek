# @TEST-DOC: One Zeek publishes its connections; another stands in for the sensor, and answers with an alert of each.
# @TEST-PORT: PUBLISHERS
# @TEST-PORT: SUBSCRIBERS
# @TEST-EXEC: btest-bg-run zeek zeek $PACKAGE $PACKAGE/zeromq-standalone.zeek ../ports.zeek ../zeek-side.zeek
# @TEST-EXEC: btest-bg-run sensor zeek $PACKAGE/conns.zeek ../ports.zeek ../sensor-side.zeek
# @TEST-EXEC: btest-bg-wait 30
# @TEST-EXEC: zeek-cut note n uid id.orig_h id.resp_p sub < zeek/notice.log > told
# @TEST-EXEC: diff expected told

# @TEST-START-FILE ports.zeek
@load base/misc/version
@load frameworks/cluster/backend/zeromq
@if ( ! Version::at_least("8.1.0") )
@load frameworks/cluster/backend/zeromq/connect
@endif

redef Cluster::Backend::ZeroMQ::listen_xsub_endpoint = fmt(
    "tcp://127.0.0.1:%d", to_port(getenv("PUBLISHERS")));
redef Cluster::Backend::ZeroMQ::connect_xpub_endpoint = fmt(
    "tcp://127.0.0.1:%d", to_port(getenv("PUBLISHERS")));
redef Cluster::Backend::ZeroMQ::listen_xpub_endpoint = fmt(
    "tcp://127.0.0.1:%d", to_port(getenv("SUBSCRIBERS")));
redef Cluster::Backend::ZeroMQ::connect_xsub_endpoint = fmt(
    "tcp://127.0.0.1:%d", to_port(getenv("SUBSCRIBERS")));
redef exit_only_after_terminate = T;
# @TEST-END-FILE

# @TEST-START-FILE zeek-side.zeek
event Cluster::Backend::ZeroMQ::subscription(topic: string)
	{
	if ( topic != NetSeq::conn_topic )
		return;

	event Conn::log_conn(Conn::Info($ts=double_to_time(1700000000.0), $uid="C1",
	    $id=conn_id($orig_h=192.0.2.5, $orig_p=49152/tcp,
	    $resp_h=198.51.100.7, $resp_p=445/tcp), $proto=tcp));
	}

event Notice::log_notice(rec: Notice::Info)
	{
	terminate();
	}
# @TEST-END-FILE

# @TEST-START-FILE sensor-side.zeek
module NetSeq;

export {
	global alert: event(uid: string, orig_h: addr, orig_p: port, resp_h: addr,
	    resp_p: port, msg: string, sub: string, score: double,
	    signature: string, measure: string, sensor: string, ts: double);
}

event gone()
	{
	terminate();
	}

# What is published before the other side's subscription is there would be thrown away.
event Cluster::Backend::ZeroMQ::subscription(topic: string)
	{
	if ( topic == "netseq.alert." )
		Cluster::subscribe(NetSeq::conn_topic);
	}

event NetSeq::conn(c: NetSeq::Conn)
	{
	Cluster::publish("netseq.alert.", NetSeq::alert, c$uid, c$orig_h, c$orig_p,
	    c$resp_h, c$resp_p, "m", "s", 17.4, "NetSeq::Sequence_Anomaly",
	    "nats", "wall-3", c$ts);
	schedule 2sec { gone() };
	}
# @TEST-END-FILE

# @TEST-START-FILE expected
NetSeq::Sequence_Anomaly	17	C1	192.0.2.5	445	s
# @TEST-END-FILE
