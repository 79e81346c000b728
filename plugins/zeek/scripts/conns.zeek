##! Publishes each connection that conn.log gets, for netseq to score.
##!
##! Only what netseq reads is sent, in a record of its own: :zeek:see:`Conn::Info` changes with every script that adds a field,
##! and its text as JSON would cost several times as much.

@load base/frameworks/cluster
@load base/protocols/conn

module NetSeq;

export {
	## Topic of the connections, Zeek to netseq. Topics match by their beginning, so it ends in a separator.
	## The setting ``zeek.topic`` of netseq must be the same.
	const conn_topic = "netseq.conn." &redef;

	## Whether connections are published. Not where netseq reads conn.log, or captures packets itself.
	const publish_conns = T &redef;

	## Says which connections are published: those for which it returns T.
	##
	## rec: the connection, as conn.log gets it.
	const conn_filter: function(rec: Conn::Info): bool = function(rec: Conn::Info)
	    : bool
		{
		return T;
		} &redef;

	## A connection as netseq reads it. New fields are added at the end only.
	type Conn: record {
		## Time of the first packet in seconds. A ``time`` would lose its microseconds in JSON.
		ts: double;
		## Zeek's uid.
		uid: string;
		## Who asked.
		orig_h: addr;
		orig_p: port;
		## Who was asked.
		resp_h: addr;
		resp_p: port;
		## Transport, and the number in the IP header for those that have no name in Zeek.
		proto: transport_proto;
		ip_proto: count &optional;
		## How it went, by conn.log's words.
		conn_state: string &optional;
		## From the first to the last packet, in seconds.
		duration: double &optional;
		## Payload, packets and bytes of IP each way.
		orig_bytes: count &optional;
		resp_bytes: count &optional;
		orig_pkts: count &optional;
		orig_ip_bytes: count &optional;
		resp_pkts: count &optional;
		resp_ip_bytes: count &optional;
	};

	## A connection for netseq. No node of Zeek handles it.
	##
	## c: the connection.
	global conn: event(c: NetSeq::Conn);
}

event Conn::log_conn(rec: Conn::Info)
	{
	if ( ! publish_conns || ! conn_filter(rec) )
		return;

	local c = NetSeq::Conn($ts=time_to_double(rec$ts), $uid=rec$uid,
	    $orig_h=rec$id$orig_h, $orig_p=rec$id$orig_p, $resp_h=rec$id$resp_h,
	    $resp_p=rec$id$resp_p, $proto=rec$proto);

	if ( rec?$ip_proto )
		c$ip_proto = rec$ip_proto;

	if ( rec?$conn_state )
		c$conn_state = rec$conn_state;

	if ( rec?$duration )
		c$duration = interval_to_double(rec$duration);

	if ( rec?$orig_bytes )
		c$orig_bytes = rec$orig_bytes;

	if ( rec?$resp_bytes )
		c$resp_bytes = rec$resp_bytes;

	if ( rec?$orig_pkts )
		c$orig_pkts = rec$orig_pkts;

	if ( rec?$orig_ip_bytes )
		c$orig_ip_bytes = rec$orig_ip_bytes;

	if ( rec?$resp_pkts )
		c$resp_pkts = rec$resp_pkts;

	if ( rec?$resp_ip_bytes )
		c$resp_ip_bytes = rec$resp_ip_bytes;

	Cluster::publish(conn_topic, NetSeq::conn, c);
	}
