##! Takes netseq's alerts from the cluster's bus and raises their notices.
##!
##! One node does: the manager of a cluster, or a Zeek that is alone. Its subscription is what the sensor waits for before it
##! sends anything.

@load base/frameworks/cluster
@load ./notices

module NetSeq;

export {
	## Topic of the alerts, netseq to Zeek. Topics match by their beginning, so it ends in a separator. netseq sends to
	## exactly this one.
	const alert_topic = "netseq.alert.";

	## An alert of a sensor.
	##
	## uid: Zeek's uid of the flow that raised it, or empty.
	##
	## orig_h: who asked; of an alert about the sensor itself 0.0.0.0, as are the other ends.
	##
	## orig_p: and from where.
	##
	## resp_h: who was asked.
	##
	## resp_p: and for what.
	##
	## msg: the alert in words.
	##
	## sub: severity, p-value and reasons in short.
	##
	## score: how strong it is.
	##
	## signature: what was found.
	##
	## measure: what the score is.
	##
	## sensor: name of the sensor.
	##
	## ts: when it was raised, in seconds.
	global alert: event(uid: string, orig_h: addr, orig_p: port, resp_h: addr,
	    resp_p: port, msg: string, sub: string, score: double,
	    signature: string, measure: string, sensor: string, ts: double);
}

# Behind the zeek_init in which a backend connects.
event zeek_init() &priority=-5
	{
	if ( ! Cluster::is_enabled()
	    || Cluster::local_node_type() == Cluster::MANAGER )
		Cluster::subscribe(alert_topic);
	}

event NetSeq::alert(uid: string, orig_h: addr, orig_p: port, resp_h: addr,
    resp_p: port, msg: string, sub: string, score: double, signature: string,
    measure: string, sensor: string, ts: double)
	{
	local a = Alert($ts=double_to_time(ts), $signature=signature, $sensor=sensor,
	    $msg=msg, $sub=sub, $score=score, $measure=measure);

	if ( uid != "" )
		a$uid = uid;

	if ( orig_h != 0.0.0.0 || resp_h != 0.0.0.0 )
		a$id = conn_id($orig_h=orig_h, $orig_p=orig_p, $resp_h=resp_h,
		    $resp_p=resp_p);

	raise_notice(a);
	}
