"""The looks of an evaluation report."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ground:#f4f6f8;--ink:#1b2127;--soft:#5a6570;--line:#d9dfe5;--mark:#1769aa;
--good:#17702f;--bad:#b3261e;--band:#a9cbe8}
@media (prefers-color-scheme:dark){:root{--paper:#1b2026;--ground:#12161a;--ink:#e6eaee;--soft:#a3adb8;--line:#343c45;
--mark:#77b7ee;--good:#6fcf87;--bad:#ff8a80;--band:#36587a}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:4rem}
body{font:16px/1.55 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif;margin:0;color:var(--ink);
background:var(--ground);overflow-wrap:break-word}
header,main{max-width:66rem;margin:0 auto;padding:0 1rem}h1{line-height:1.2;margin:1.6rem 0 .8rem}
h2{line-height:1.2;margin:0 0 .6rem}a{color:var(--mark)}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--paper);padding:.5rem;z-index:3}
nav{position:sticky;top:0;z-index:2;background:var(--paper);border-bottom:1px solid var(--line)}
nav ol{display:flex;gap:1.2rem;overflow-x:auto;list-style:none;margin:0 auto;max-width:66rem;padding:.7rem 1rem}
nav a{white-space:nowrap;text-decoration:none}nav a:hover,nav a:focus{text-decoration:underline}
section{background:var(--paper);border:1px solid var(--line);border-radius:.8rem;padding:1.1rem;margin:1.1rem 0}
#summary{border-left:.4rem solid var(--mark)}#summary li{margin:.45rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.6rem 0;font-size:.94rem;min-width:min(100%,34rem)}
caption,figcaption,summary{text-align:left;color:var(--soft);padding:.3rem 0}summary{cursor:pointer;color:var(--mark)}
td,th{border-top:1px solid var(--line);padding:.4rem .8rem .4rem 0;text-align:left;vertical-align:top;font-weight:400}
thead th{border-top:0;color:var(--soft)}th[scope=rowgroup]{font-weight:700;padding-top:1rem;border-top:0}
td{font-variant-numeric:tabular-nums}td b{color:var(--good)}td small{display:block;color:var(--soft);white-space:nowrap}
th[scope=row]{min-width:5rem}
.right{color:var(--good)}.wrong{color:var(--bad)}
.bar{display:block;position:relative;height:.5rem;width:7rem;margin-top:.25rem;border-radius:.25rem;
background:var(--ground)}.bar i{position:absolute;top:0;bottom:0;background:var(--band);border-radius:.25rem}
.bar em{position:absolute;top:-.1rem;bottom:-.1rem;width:.2rem;margin-left:-.1rem;background:var(--mark)}
figure{margin:1rem 0}.plot svg{display:block;width:100%;min-width:27rem;max-width:52rem;height:auto}
.plot svg text{fill:currentColor}.plot svg *{stroke-linejoin:round}
.trace{border-top:1px solid var(--line);padding-top:.7rem}.trace p{margin:.2rem 0}.tokens{line-height:2.5}
.tokens span{border-radius:.3rem;padding:.15rem .3rem;margin-right:.12rem;white-space:pre-wrap;display:inline-block;
line-height:1.5}.tokens sub{font-size:.62em;opacity:.85;margin-left:.2em}
.scale{display:inline-block;width:8rem;height:.8rem;border-radius:.3rem;vertical-align:middle;
background:linear-gradient(90deg,#deecf8,#0a3664)}
@keyframes show{from{opacity:.06}to{opacity:1}}
.replay:checked~.trace .tokens span{animation:show .25s both;animation-delay:calc(var(--pass)*.3s)}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}.replay,.replay+label{display:none}}
@media print{nav{display:none}section{break-inside:avoid;border:0}}
"""
