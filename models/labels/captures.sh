# Which captures multiflow-packets learned from, was held back on, and was tested on (docs/models.md): none is in two lists, and
# captures that share flows are in one. Left out is what holds other attacks, or what nobody can judge. For bash; needs $C, the
# folder of captures, and sets TRAIN, HELD, ATTACKS, BENIGN and ONE_WAY.
shopt -s extglob
BOOK=$C/markofu/PracticalPacketAnalysis/ppa-capture-files
LAB=$C/elcabezzonn
EXCEPT='@(WebattackRCE|malware|emotet|trickbot|dos_win98|badpackets|bad-dns|dns?(_|-)exf|dns-tunnel|dns2tcp|shell|malformed|fuzz|ossfuzz|synscan|tcp_scan|xss|sql_injection|mining|zcash|encrypted_sni|tls-esni|sip.|pop3.|ssh.|srvloc.)*'
TRAIN=($C/stopddos/{pkt.TCP.DOMINATE,amp.UDP.bacnet,amp.UDP.snmp}* $C/markofu/*_SCAN/!(FTP*)
    $C/markofu/EvilFingers/xprobe_pcaps/xprobe_icmp_{tcp,udp}_scan $BOOK/ftp-crack* $C/try_zeek $C/slips/dataset/test-cc
    $C/otrf/atomic $C/otrf/compound $C/ndpi_4.2/WebattackXSS*
    $C/markofu/EvilFingers/Praveen/@(*[_e]SQL*|*Blind*|Apache_XSS*|joomla*|mambo*|*_SQLInj*)
    $C/zeek_traces/!(ftp|ssh|trunc|nmap-vsn*|rpc-portmap-sadmind*) $C/ndpi_{git,4.2}/!($EXCEPT|[n-zN-Z]*|WebattackXSS*))
HELD=($C/stopddos/amp.UDP.isakmp* $BOOK/portscan* $C/esnet/attacks/scanners/nmap $C/ndpi_git/@(tcp_scan|xss|sql_injection)*
    $C/chrissanders/ratinfected* $C/ndpi_{git,4.2}/!($EXCEPT|[0-9a-mA-M]*|WebattackXSS*))
ATTACKS=($C/stopddos/pkt.TCP.synflood* $BOOK/dosattack* $C/esnet/attacks/scanners/masscan $C/chrissanders/synscan*
    $C/markofu/NetworkForensics/evidence0[46] $LAB/miscellaneous* $C/slips/dataset/test7-malicious* $C/zeek_traces/ftp
    $C/zeek_traces/ssh $LAB/wmi_to_@(powershell_empire|vss)* $C/pcap_attack/Command_and_Control/cmds_over_dns*
    $C/ndpi_git/WebattackRCE* $C/chrissanders/http_dvwa*)
BENIGN=($LAB/{windows_miscellany,chip_host_signin,aug16_part2,aug_16_par4,macgyver}*
    $C/chrissanders/!(synscan*|ratinfected*|http_dvwa*|cryptowall4*|ek_to*|aurora*|arppoison*|activeos*|passiveos*|dns_isp*|dns_axfr*|sessionh*|tickedoff*)
    $BOOK/!(dosattack*|portscan*|ftp-crack*|evilprogram*|blaster*|covertinfo*|hackersview*|hauntedbrowser*|osfing*|email-troubles*)
    $C/markofu/NetworkForensics/evidence0[23]* $C/markofu/NetworkForensics/puzzle1*)
ONE_WAY=($C/ustc_tfc2016)
