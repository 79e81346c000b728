# @TEST-DOC: Alerts become the three types of notice, with the score as a whole number; equal ones are suppressed.
# @TEST-EXEC: zeek $PACKAGE/notices.zeek %INPUT
# @TEST-EXEC: zeek-cut note n peer_descr uid id.resp_p sub < notice.log > told
# @TEST-EXEC: diff expected told

function alert_of(signature: string, score: double, measure: string): NetSeq::Alert
	{
	return NetSeq::Alert($ts=double_to_time(1700000000.0), $signature=signature,
	    $sensor="wall-3", $msg="m", $sub=signature, $score=score,
	    $measure=measure);
	}

hook NetSeq::alert_policy(a: NetSeq::Alert)
	{
	if ( a$signature == "NetSeq::Unwanted" )
		break;
	}

event zeek_init()
	{
	local id = conn_id($orig_h=192.0.2.5, $orig_p=49152/tcp,
	    $resp_h=198.51.100.7, $resp_p=445/tcp);

	local anomaly = alert_of("NetSeq::Sequence_Anomaly", 17.4, "nats");
	anomaly$id = id;
	anomaly$uid = "CAfebc1kCPpOeYIO3d";
	NetSeq::raise_notice(anomaly);
	NetSeq::raise_notice(anomaly);

	local attack = alert_of("NetSeq::Web_Attack", 0.97, "probability");
	attack$id = id;
	NetSeq::raise_notice(attack);

	local sweep = alert_of("NetSeq::Sweep", 131.0, "ports");
	sweep$id = id;
	NetSeq::raise_notice(sweep);

	local unwanted = alert_of("NetSeq::Unwanted", 1.0, "nats");
	unwanted$id = id;
	NetSeq::raise_notice(unwanted);

	NetSeq::raise_notice(alert_of("NetSeq::Sensor_Degraded", 0.05, "share lost"));
	NetSeq::raise_notice(alert_of("NetSeq::Sensor_Degraded", -1.0, "share lost"));
	}

# @TEST-START-FILE expected
NetSeq::Sequence_Anomaly	17	wall-3	CAfebc1kCPpOeYIO3d	445	NetSeq::Sequence_Anomaly
NetSeq::Attack	97	wall-3	-	445	NetSeq::Web_Attack
NetSeq::Attack	131	wall-3	-	445	NetSeq::Sweep
NetSeq::Sensor_Degraded	5	wall-3	-	-	NetSeq::Sensor_Degraded
# @TEST-END-FILE
